"""Every sentence of the page that a cohort can make untrue: functions from the tables to text.

Templates place them and add what holds of all cohorts. A sentence that does not hold is another
one, or an empty text.
"""
