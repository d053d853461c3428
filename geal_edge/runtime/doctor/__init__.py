"""`geal-edge doctor`: is this machine ready? Start reading at examination.py."""
