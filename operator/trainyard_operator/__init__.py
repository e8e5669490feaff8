"""The operator: runs TrainingRuns on Kubernetes. Read `reconcile.py` first."""
