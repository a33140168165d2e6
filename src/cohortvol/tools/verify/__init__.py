"""Is every file of a results folder there, whole, and made from the others as they are now.

`cohortvol.verify.folder` looks at everything; `cohortvol.verify.quick` at the tables alone, in no
time, before a run is planned; `cohortvol.verify.search` proves that nothing names a person.
"""
