# Golden values of tests/test_analyse_repeats.py, by lme4 1.1-31 (Debian 12).
#
#   python tests/golden_r/random_slopes.py FILE.csv && Rscript tests/golden_r/random_slopes.R FILE.csv \
#     > tests/golden_r/random_slopes.csv
suppressMessages(library(lme4))
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
exact <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-11, maxfun = 1e5))
fit <- lmer(y ~ between + within + (within | subject), data = data, REML = TRUE, control = exact)
random <- VarCorr(fit)$subject
cat("name,value\n")
for (term in names(fixef(fit))) {
  cat(sprintf("%s,%.12g\n", term, fixef(fit)[term]))
  cat(sprintf("se %s,%.12g\n", term, sqrt(vcov(fit)[term, term])))
}
cat(sprintf("variance of intercepts,%.12g\n", random[1, 1]))
cat(sprintf("variance of slopes,%.12g\n", random[2, 2]))
cat(sprintf("covariance,%.12g\n", random[1, 2]))
cat(sprintf("variance within,%.12g\n", sigma(fit)^2))
