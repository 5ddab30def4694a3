"""Has the name of Dify's application, which the build imports: reads in what the api and its migration begin with."""

import sys

sys.path.insert(0, "/standin")

import as_large  # noqa: F401
import backing  # noqa: F401
