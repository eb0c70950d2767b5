"""Canary releases of services behind load balancers, run and audited by Apache Airflow."""

__version__ = "0.1.0"
