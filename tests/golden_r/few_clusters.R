# Golden values of tests/test_few_clusters.py, by clubSandwich 0.6.0.
#
#   python tests/golden_r/few_clusters.py FILE.csv && Rscript tests/golden_r/few_clusters.R FILE.csv \
#     > tests/golden_r/few_clusters.csv
suppressMessages(library(clubSandwich))
data <- read.csv(commandArgs(trailingOnly = TRUE)[1])
fit <- lm(y ~ age + male + treated, data = data)
tested <- coef_test(fit, vcov = "CR2", cluster = data$cluster, test = "Satterthwaite")
at <- conf_int(fit, vcov = "CR2", cluster = data$cluster, test = "Satterthwaite")
cat("term,estimate,se,df,p,low,high\n")
for (row in seq_len(nrow(tested)))
  cat(sprintf("%s,%.12g,%.12g,%.12g,%.12g,%.12g,%.12g\n", names(coef(fit))[row],
              tested$beta[row], tested$SE[row], tested$df_Satt[row], tested$p_Satt[row],
              at$CI_L[row], at$CI_U[row]))
