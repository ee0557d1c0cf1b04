"""Transfer for time series: reading, splitting by time, windows, forecasters, baselines and their comparison."""
