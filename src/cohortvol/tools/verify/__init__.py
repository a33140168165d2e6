"""Is every file of a results folder there, whole, and made from the others as they are now.

`folder` looks at everything; `quick` at the tables alone, in no time, before a run is planned;
`search` proves that nothing names a person.
"""
