"""The HTML page about a run: `page.write_report(run_dir, results, out)`."""
