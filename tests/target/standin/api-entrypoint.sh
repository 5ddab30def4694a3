#!/bin/bash
# What the real image does: each container migrates first, unless that is switched off, and then runs its own program.
set -e
if [[ "$MIGRATION_ENABLED" == "true" ]]; then
    echo "Running migrations"
    python3 /standin/migrate.py
    if [[ "$MODE" == "migration" ]]; then
        exit 0
    fi
fi
exec python3 /standin/api.py
