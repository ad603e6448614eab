# What is particular to your cluster, in one place. Read by every job, and by you before sbatch: `source launch/slurm/site.sh`.
# SITE=FILE sbatch ... takes another file. Whatever is set in the environment already stays.

# For sbatch itself, which reads these variables; or give it -A and -p.
# export SBATCH_ACCOUNT=my-account
# export SBATCH_PARTITION=gpu

# Run in the job before anything else: the Python that has megatron-oreal installed (see README.md, Install), and modules.
PYTHON=${PYTHON:-python}
# module load cuda/13.0
# export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0 # by themselves: the interface that reaches MASTER_ADDR

# Where each node keeps the kernels that it compiles: a folder of its own disks, kept between jobs. Default: below TMPDIR, or /tmp.
# JIT_CACHE=/local/scratch/$USER/jit

# A container: what srun takes for it (here for pyxis). The checkout, the model, the data and run_dir must be mounted where they are.
CONTAINER=()
# CONTAINER=(--container-image=/images/megatron-oreal.sqsh --container-mounts=/shared:/shared --container-workdir="$PWD")

# Further options of the preflight check, see `megatron-oreal doctor --help`.
DOCTOR=()
# DOCTOR=(--slowest-allreduce 20 --slowest-disk 500)
MAX_REQUEUES=${MAX_REQUEUES:-50} # a run that is stopped and requeued so often is not requeued again
