"""Who are the workers, and are they all there, alike and alive?

Standard library only: a worker finds its rank at once, before TensorFlow is imported, and also on
hosts where TensorFlow is not installed.

Read in this order; each file imports from those above it only:

1. wording.py: how values and workers are named in messages.
2. contract.py: what the launcher and its workers agree on: variables, exit codes, files.
3. tf_config.py: what TF_CONFIG says.
4. hostlists.py: which hosts the short form of Slurm names.
5. environments.py: which rank the variables of other launchers give this process.
6. detection.py: who am I, and who are the others? The environment -> a `Cluster`.
7. worker_number.py: which worker of how many is meant, where a caller may say so.
8. messages.py: how two processes of tfdist talk.
9. announcement.py: what a worker says of itself, and whether all are alike.
10. ports.py: which address and port a worker uses, and who can reach it.
11. roll_call.py: are all workers there? The server's side.
12. roll_call_client.py: where are the others? A worker's side.
13. meeting.py: how workers that another launcher has started find each other.
14. peers.py: whether the others listen, before TensorFlow waits for them.
15. progress.py: how far a worker has come, told to the launcher.
16. side_channel.py: how workers connect to each other besides TensorFlow.
17. places.py: where a worker is in its program, and whether the others are there too.
18. heartbeat.py: whether the other workers are alive.
19. quiet.py: which lines of the workers' log only the log files get.
"""
