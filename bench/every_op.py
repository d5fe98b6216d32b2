"""Every fused operation once, on its smallest benchmark size: a small program for compute-sanitizer.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python -m bench.every_op --device cuda
"""

import argparse

from bench import harness, operations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    device = harness.choose_device(parser.parse_args().device)
    for name, module in operations.MODULES.items():
        module.case(module.SIZES[0], device)["atlas_fast"]()
        harness.synchronise(device)
        print(f"{name}: {module.SIZES[0]}", flush=True)


if __name__ == "__main__":
    main()
