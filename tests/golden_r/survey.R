# Golden values of tests/test_survey.py, by survey 4.1-1 (Debian 12).
#
#   python tests/golden_r/survey.py FILE.csv && Rscript tests/golden_r/survey.R FILE.csv \
#     > tests/golden_r/survey.csv
suppressMessages(library(survey))
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
designs <- list(
  weights = svydesign(ids = ~1, weights = ~w, data = data),
  clusters = svydesign(ids = ~cluster, weights = ~w, data = data),
  strata = svydesign(ids = ~cluster, strata = ~stratum, weights = ~w, data = data, nest = TRUE)
)
cat("design,term,estimate,se,df,low,high\n")
for (name in names(designs)) {
  fit <- svyglm(y ~ age + male, design = designs[[name]])
  at <- confint(fit, ddf = fit$df.residual)
  for (term in names(coef(fit)))
    cat(sprintf("%s,%s,%.12g,%.12g,%g,%.12g,%.12g\n", name, term, coef(fit)[term],
                SE(fit)[term], fit$df.residual, at[term, 1], at[term, 2]))
}
