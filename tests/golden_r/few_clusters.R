# Golden values of tests/test_few_clusters.py, by clubSandwich 0.6.0 and lme4 1.1-31 (Debian 12).
#
#   python tests/golden_r/few_clusters.py FILE.csv && Rscript tests/golden_r/few_clusters.R FILE.csv \
#     | grep -v "factor(cluster)" > tests/golden_r/few_clusters.csv
suppressMessages({library(clubSandwich); library(lme4)})
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
exact <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-11, maxfun = 1e5))
fits <- list(
  least_squares = lm(y ~ age + male + treated, data = data),
  term_per_village = lm(y ~ age + male + factor(cluster), data = data),
  weighted = lm(y ~ age + male + treated, data = data, weights = weight),
  random_intercept = lmer(again ~ age + male + treated + (1 | person), data = data, control = exact)
)
cat("model,term,estimate,se,df,p,low,high\n")
line <- function(...) cat(sprintf("%s,%s,%.12g,%.12g,%.12g,%.12g,%.12g,%.12g\n", ...))
for (model in names(fits)) {
  fit <- fits[[model]]
  tested <- coef_test(fit, vcov = "CR2", cluster = data$cluster, test = "Satterthwaite")
  at <- conf_int(fit, vcov = "CR2", cluster = data$cluster, test = "Satterthwaite")
  for (row in seq_len(nrow(tested)))
    line(model, rownames(tested)[row], tested$beta[row], tested$SE[row], tested$df_Satt[row],
         tested$p_Satt[row], at$CI_L[row], at$CI_U[row])
  if (model == "term_per_village") next
  all <- Wald_test(fit, constrain_zero(2:4), vcov = "CR2", cluster = data$cluster, test = "HTZ")
  line(model, "F of all slopes", all$Fstat, NA, all$df_denom, all$p_val, NA, NA)
}
