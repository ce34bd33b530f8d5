"""Where are the workers of a job placed, and how are they controlled there?

Each engine is a module with the name that `--engine` takes. All but "local" use an agent beside
each worker.

Read in this order; each file imports from those above it only:

1. local.py: engine "local": processes on this machine.
2. wire.py: how the launcher and its agents talk.
3. agent.py: what an engine places on a host.
4. remote.py: how the launcher controls workers on other hosts.
5. starter.py: how a command places the agents.
6. mpi.py: engine "mpi": mpirun places the agents.
7. slurm.py: engine "slurm": srun does.
8. ray.py: engine "ray": actors in a placement group hold the agents.
9. dask.py: engine "dask": tasks pinned to one Dask worker each do.
10. spark.py: engine "spark": the tasks of a barrier stage do.
"""
