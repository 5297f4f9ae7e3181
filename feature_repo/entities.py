"""What a flight is looked up by: its carrier, its two airports, its aircraft."""

from feast import Entity, ValueType

carrier = Entity(name="carrier", join_keys=["carrier"], value_type=ValueType.STRING, description="IATA code of the airline.")
origin = Entity(name="origin", join_keys=["origin"], value_type=ValueType.STRING, description="Airport of departure.")
dest = Entity(name="dest", join_keys=["dest"], value_type=ValueType.STRING, description="Airport of arrival.")
tailnum = Entity(
    name="tailnum", join_keys=["tailnum"], value_type=ValueType.STRING, description="Registration of the aircraft."
)
