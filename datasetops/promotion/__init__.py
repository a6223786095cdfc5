"""From a trained model to the one in production: export, regression sets, the gate of models, rollback."""
