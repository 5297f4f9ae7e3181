"""Tracing: takes part in a caller's trace (W3C Trace Context) and tells OpenTelemetry what a request spent its time on."""
