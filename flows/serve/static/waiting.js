// A result is being made: look again in a moment.
"use strict";
setTimeout(() => location.reload(), 2000);
