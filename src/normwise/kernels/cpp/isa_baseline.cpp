#define NORMWISE_ISA baseline
#include "table.h"
