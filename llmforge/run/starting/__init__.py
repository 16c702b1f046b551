"""How the processes of a run are started: by torchrun, DeepSpeed, Ray, Slurm."""
