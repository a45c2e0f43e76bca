"""fal's platform API: its errors, parameters, pages and views. The routes are beside the others."""
