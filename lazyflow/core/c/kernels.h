/* What machine.c has of each type and instruction set. */
#include "functions.h"
#include "run.h"
#include "rows.h"
#include "attend.h"
#include "clean.h"
