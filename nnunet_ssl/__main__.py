"""`python -m nnunet_ssl`: the command of this environment, whatever PATH says."""

from nnunet_ssl.cli import main

if __name__ == "__main__":  # worker processes import this module, too
    main()
