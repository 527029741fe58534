"""`python -m pipeline`, and `torchrun -m pipeline finetune` for several GPUs."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
