# cohortvol on the settings of its repository; the rules stand in workflow/cohort.smk.
configfile: "config/config.yaml"


include: "workflow/cohort.smk"


rule all:
    default_target: True
    input:
        COHORT,
