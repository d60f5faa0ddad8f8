# sh select_packages.sh cpu|cuda LOCK: split a lock file into locked.txt and torch.txt, both here.
#
# The locked PyTorch is the CUDA build, which needs the NVIDIA libraries and Triton: about 5 GB. A
# CPU image installs the same releases of torch and torchvision from PyTorch's own index of CPU
# wheels (torch.txt) and omits those packages.
set -eu
device=$1 lock=$2
case $device in
cuda)
    grep -E '^[A-Za-z0-9]' "$lock" > locked.txt
    : > torch.txt
    ;;
cpu)
    grep -E '^[A-Za-z0-9]' "$lock" \
        | grep -Ev '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' > locked.txt
    grep -E '^(torch|torchvision)==' "$lock" > torch.txt
    ;;
*)
    echo "DEVICE: expected cpu or cuda, got $device" >&2
    exit 2
    ;;
esac
