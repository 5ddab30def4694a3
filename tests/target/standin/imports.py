# ruff: noqa: F401 - they are there to be read in
"""Reads in as much as Dify's api does: packages that it names itself, until module for module it takes as long.

The figures beside Dify's own import are in docs/decisions/023-one-migration-and-kept-bytecode.md.
"""

import azure.identity
import azure.storage.blob
import boto3
import bs4
import celery
import charset_normalizer
import cloudscraper
import croniter
import Crypto.Cipher.AES
import docx
import elasticsearch
import flask_cors
import flask_login
import flask_migrate
import flask_restx
import flask_sqlalchemy
import gevent
import google.cloud.storage
import googleapiclient.discovery
import httpx
import jsonschema
import jwt
import langfuse
import openpyxl
import opentelemetry.exporter.otlp.proto.grpc.trace_exporter
import opentelemetry.sdk.trace
import pandas
import psycopg2
import pydantic_extra_types.color
import pydantic_settings
import pymilvus
import pypdfium2
import qdrant_client
import redis.sentinel
import requests
import sentry_sdk
import sqlalchemy.dialects.mysql
import sqlalchemy.dialects.postgresql
import tiktoken
import weaviate
