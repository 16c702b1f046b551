"""Where runs are recorded besides their folder: MLflow, or nowhere."""
