-- Make the group if it is not there. → 1
open_group()
return 1
