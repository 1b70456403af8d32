"""`python -m tests.tools.kustomize`: build Kustomize, and say where it is."""

from tests.tools.kustomize import main

main()
