"""The flow: seven stages in this order, each of which reads files and writes files.

manifest → ingest → segment → measure → assemble → analyse → report. A stage never imports a stage.
"""
