# Outline the water of a class map: a GeoDataFrame with areas on the ellipsoid, and a GeoPackage.

import geocore as geo

lakes = geo.polygonize(geo.sample() / "truth.tif", values=[1], min_area_m2=100_000, out="lakes.gpkg")
print(lakes[["value", "area_m2", "perimeter_m"]].sort_values("area_m2", ascending=False).head())
lakes.plot(column="area_m2", cmap="Blues", edgecolor="black").figure.savefig("lakes.png")
