"""The contract of Trainyard: schema, plan, policies and names. Imports pydantic and nothing heavier."""
