"""From pictures to results: ``detector`` (faces in a picture), ``tiles`` (very large ones), ``stream`` (many)."""
