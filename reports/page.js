(function () {
  "use strict";
  var up = "⁰¹²³⁴⁵⁶⁷⁸⁹";
  function value(text) {
    var t = text.replace(/,/g, "").replace(/−/g, "-").trim();
    var power = t.match(/^<?\s*(?:([\d.]+) × )?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)/);
    if (power) {
      var exponent = power[2].replace(/⁻/, "-").replace(/[⁰¹²³⁴-⁹]/g, function (c) { return up.indexOf(c); });
      return parseFloat((power[1] || "1") + "e" + exponent);
    }
    var number = parseFloat(t.replace(/^[<>=]\s*/, ""));
    return isNaN(number) ? null : number;
  }
  function compare(a, b) {
    if (a === b) { return 0; }
    if (a === "" || a === "–") { return 1; }
    if (b === "" || b === "–") { return -1; }
    var x = value(a), y = value(b);
    return x !== null && y !== null ? x - y : a.localeCompare(b);
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    heads.forEach(function (head, place) {
      var button = document.createElement("button");
      button.type = "button";
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var bodies = Array.prototype.slice.call(table.tBodies);
        bodies.map(function (body, order) {
          var cell = body.rows[0].cells[place];
          return { body: body, order: order, text: cell ? cell.textContent.trim() : "" };
        }).sort(function (a, b) {
          var blank = (b.text === "–") - (a.text === "–");
          return (blank ? -blank : (down ? -1 : 1) * compare(a.text, b.text)) || a.order - b.order;
        }).forEach(function (item) { table.appendChild(item.body); });
      });
    });
  });
})();
