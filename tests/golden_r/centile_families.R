# Golden values of tests/test_centile_families.py, by gamlss 5.5-0 and gamlss.dist 6.1-1.
#
#   python tests/golden_r/centile_families.py DIR     writes DIR/<data>.csv
#   Rscript tests/golden_r/centile_families.R DIR > tests/golden_r/centile_families.csv
#
# The columns m* span ln M, those named s* span ln S; SHASH is of ln y. "BCT age": nu is a line in age.
suppressMessages(library(gamlss))
folder <- commandArgs(trailingOnly = TRUE)[1]
control <- gamlss.control(c.crit = 1e-9, n.cyc = 4000, trace = FALSE)
inner <- glim.control(cc = 1e-10, cyc = 400, bf.cyc = 400)
cat("data,family,statistic,term,value\n")
say <- function(...) cat(paste(..., sep = ","), "\n", sep = "")
for (file in sort(list.files(folder, "[.]csv$"))) {
  data <- read.csv(file.path(folder, file))
  name <- sub("[.]csv$", "", file)
  median <- paste(grep("^m", names(data), value = TRUE), collapse = " + ")
  spread <- paste(grep("^s", names(data), value = TRUE), collapse = " + ")
  data$decades <- (data$age - 50) / 10
  for (case in c(outer(c("BCCG", "BCT", "SHASH"), c("", " age"), paste0))) {
    family <- sub(" age", "", case)
    first <- if (family == case) ~1 else ~decades
    data$response <- if (family == "SHASH") log(data$y) else data$y
    kind <- switch(family, BCCG = BCCG(mu.link = "log"), BCT = BCT(mu.link = "log"), SHASH = SHASH())
    fit <- gamlss(as.formula(paste("response ~", median)), as.formula(paste("~", spread)),
                  nu.formula = first, tau.formula = ~1, family = kind, data = data,
                  method = mixed(40, 4000), control = control, i.control = inner)
    quantile <- get(paste0("q", family))
    shapes <- list(mu = fitted(fit, "mu"), sigma = fitted(fit, "sigma"), nu = fitted(fit, "nu"))
    if (family != "BCCG") shapes$tau <- fitted(fit, "tau")
    say(name, case, "log_likelihood", "", sprintf("%.9g", as.numeric(logLik(fit))))
    rows <- order(data$age)[round(seq(0.05, 0.95, length.out = 7) * nrow(data))]
    for (percent in c(5, 50, 95)) {
      at <- do.call(quantile, c(list(percent / 100), shapes))
      if (family == "SHASH") at <- exp(at)
      for (row in rows) say(name, case, paste0("p", percent), row - 1, sprintf("%.9g", at[row]))
    }
    z <- qnorm(do.call(get(paste0("p", family)), c(list(data$response), shapes)))
    for (row in rows) say(name, case, "z", row - 1, sprintf("%.9g", z[row]))
  }
}
