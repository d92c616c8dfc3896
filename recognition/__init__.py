"""Reading faces in photos: uploads, the pages that show what was read, and the command beside them."""
