"""Run by cron: what it publishes is on all pages that are open."""

from app import live

live.publish("bar", {"#notice": "The kitchen is closed."})
