"""Objects in pictures, without torch: annotated data, masks on the wire, and COCO's metrics."""
