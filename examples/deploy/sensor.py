"""A process of its own, beside the app: a plain loop that publishes."""

import itertools
import time

from app import live

from afterload import HubError

for number in itertools.count():
    try:
        live.publish("bar", {"#degrees": f"{20 + number % 10} °C"})
    except HubError as error:  # no hub that answers; the next one says it anew
        print(error, flush=True)
    time.sleep(1)
