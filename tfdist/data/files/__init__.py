"""How are files of records read, so that any record can be read by its number?

Read in this order; each file imports from those above it only:

1. record_index.py: where in a file each record begins.
2. parquet_files.py: which Parquet files are there, and are they whole?
3. parquet_records.py: how a row of them is read by its number.
4. record_files.py: how files of records are read, each worker its own records only.
"""
