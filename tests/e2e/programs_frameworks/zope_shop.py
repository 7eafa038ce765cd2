"""A program configured with ZConfig, as Zope and ZEO are, whose event log goes to Sentry.

python -m tests.e2e.programs_frameworks.zope_shop PACKAGE
"""

import io
import logging
import sys

import ZConfig

import raven_spool

SCHEMA = """
<schema>
  <import package="ZConfig.components.logger"/>
  <section type="eventlog" name="*" attribute="eventlog"/>
</schema>
"""

CONFIGURATION = """
%import raven.contrib.zope
<eventlog>
  level INFO
  <sentry>
    dsn $(SENTRY_DSN)
    level ERROR
  </sentry>
</eventlog>
"""


def main():
    raven_spool.register()
    text = CONFIGURATION.replace("raven.contrib.zope", sys.argv[1])
    schema = ZConfig.loadSchemaFile(io.StringIO(SCHEMA))
    configuration, _ = ZConfig.loadConfigFile(schema, io.StringIO(text))
    root = configuration.eventlog()
    print(type(root.handlers[0]).__name__)
    logging.getLogger("shop").error("order %d failed", 7)
    try:
        raise LookupError("no such order")
    except LookupError:
        logging.getLogger("shop").exception("order %d was lost", 8)


if __name__ == "__main__":
    main()
