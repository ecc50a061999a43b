"""What is watched: dashboards, alerts and the reference of metrics, generated from `services.common.metrics`.

`python -m monitoring` writes them all; a test fails where what is committed differs.
"""
