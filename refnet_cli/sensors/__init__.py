"""Sentinel-1 and Sentinel-2: bands, units, offsets and file names, and how to detect them.

To add a sensor, describe it in its own module, as `sentinel1` and `sentinel2` do, and add it to `SENSORS`.
"""

from __future__ import annotations

from refnet_cli.sensors import sentinel1, sentinel2
from refnet_cli.sensors.sensor import Product, Sensor

SENSORS: dict[str, Sensor] = {
    "optical": sentinel2.SENSOR,
    "sar": sentinel1.SENSOR,
}
PRODUCTS: dict[str, Product] = {product.name: product for sensor in SENSORS.values() for product in sensor.products}
