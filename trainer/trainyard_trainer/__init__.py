"""The trainer of Trainyard: prepares data, trains and exports; runs with or without a cluster."""
