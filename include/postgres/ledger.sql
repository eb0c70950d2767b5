CREATE DATABASE canary_ledger;
