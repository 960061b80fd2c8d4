"""Two invented documents that the tests of augmentation share."""

from __future__ import annotations

from prag_core.documents import Document

LIGHT = Document(
    "Brannock Light is a lighthouse on the skerry of Ulvaset. It was designed by the engineer "
    "Ottoline Varga and first lit on 9 March 1867. The tower is built of green serpentine and "
    "rises 41 metres above the rock. The last keeper, Josiah Trewin, left the rock in 1988.",
    "Brannock Light",
    "light",
)
DYE = Document(
    "Pelagine is a violet dye. One gram requires the shells of 5,200 snails.", "Pelagine", "dye"
)
