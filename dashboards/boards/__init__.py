"""The five dashboards of keytally, one module each, and the kit they are built with."""
