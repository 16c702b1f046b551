"""What follows: passes, facts, rules, lowering. Read `passes.py` first."""
