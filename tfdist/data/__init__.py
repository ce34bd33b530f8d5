"""Which examples are in which batch of which replica?

The data that `fit` gets becomes a stream of global batches, of which each worker makes its own
rows. With static shapes every batch is padded to one shape, or to one of a few lengths.

Read in this order; each file imports from those above it only:

1. rows.py: how rows are counted and cut, of dense, ragged and sparse tensors alike.
2. shapes.py: which shapes batches are given.
3. order.py: in which order examples and batches come.
4. same_data.py: whether all workers read the same data, in the same order.
5. arrays.py: which rows of arrays a traced loop gathers itself.
6. source.py: what a stream of global batches is.
7. numbered_rows.py: how a stream is made of rows that can be asked for by their numbers.
8. rows_dataset.py: a `PyDataset` that can make any rows.
9. grain_rows.py: how a `grain.MapDataset` is asked for rows.
10. files/: how files of records are read by their number.
11. pipelines/: how a `tf.data.Dataset` is read by all workers, each making its own rows only.
12. adapters.py: how the data that `fit` accepts becomes such a stream.
13. lengths.py: to which length a batch is padded.
14. padding.py: how every batch gets one shape.
15. padding_check.py: whether a model can tell a padded batch from an unpadded one.
16. already_sharded.py: what if each worker passes only its own examples.
17. errors.py: what in the data TensorFlow stumbled over.
18. feed.py: where in the data an epoch begins and ends.
19. inputs.py: which data the workers go through together.
"""
