"""Numbers for eyes: tables, plots and a page. Knows no model and no study."""
