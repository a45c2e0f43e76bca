"""The photographs that the stand-in's VAE learned from, and where each is to be had.

They are not in this repository: `FOLDER` of the training script holds the unpacked packages. The
held-out ones, which nothing was trained on, are in `benchmarks/photographs`.
"""

from dataclasses import dataclass
from pathlib import Path

LOMIRI = "Debian package lomiri-wallpapers-16.04, 20.04.0-2"
SKIMAGE = "scikit-image 0.16.2, skimage/data"
SCIPY = "SciPy 1.9.3, scipy/misc/face.dat"
SKLEARN = "scikit-learn 1.9.1, sklearn/datasets/images"
MATPLOTLIB = "Matplotlib 3.11.2, mpl-data/sample_data"


@dataclass(frozen=True, slots=True)
class Photograph:
    """A file by its name, who made it, under which licence, and the package that has it."""

    file: str
    author: str
    licence: str
    source: str

    def find(self, folder: Path) -> Path:
        """The file in a folder of unpacked packages.

        Raises:
            FileNotFoundError: it is not there.
        """
        found = sorted(folder.rglob(self.file))
        if not found:
            raise FileNotFoundError(f"{self.file} of {self.source} is not under {folder}.")
        return found[0]


TRAINING = (
    Photograph("astronaut.png", "NASA", "public domain", SKIMAGE),
    Photograph("coffee.png", "Rachel Michetti", "CC0-1.0", SKIMAGE),
    Photograph("hubble_deep_field.jpg", "NASA", "public domain", SKIMAGE),
    Photograph("brick.png", "CC0Textures", "CC0-1.0", SKIMAGE),
    Photograph("grass.png", "linolafett", "CC0-1.0", SKIMAGE),
    Photograph("gravel.png", "CC0Textures", "CC0-1.0", SKIMAGE),
    Photograph("face.dat", "Judy Weggelaar, NOAA", "public domain", SCIPY),
    Photograph("grace_hopper.jpg", "US Navy", "public domain", MATPLOTLIB),
    Photograph("aitzgorri_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", LOMIRI),
    Photograph("Picture_0B_by_freespace.jpg", "Trevor 'Freespace'", "CC-BY-4.0", LOMIRI),
    Photograph("Picture_1A_by_freespace.jpg", "Trevor 'Freespace'", "CC-BY-4.0", LOMIRI),
    Photograph("sunset_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", LOMIRI),
    Photograph("umang_by_Abhishek_Mudgal.jpg", "Abhishek Mudgal", "CC-BY-4.0", LOMIRI),
    Photograph("Wine_by_Jakkub_Mede.jpg", "Jakub Mede", "CC-BY-4.0", LOMIRI),
)

HELD_OUT = (
    Photograph("chelsea.png", "Stefan van der Walt", "CC0-1.0", SKIMAGE),
    Photograph("rocket.jpg", "SpaceX", "public domain", SKIMAGE),
    Photograph("china.jpg", "Daniel Buechele", "CC-BY-2.0", SKLEARN),
    Photograph("flower.jpg", "vultilion", "CC-BY-2.0", SKLEARN),
    Photograph("picosdeeuropa_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", LOMIRI),
    Photograph("life_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", LOMIRI),
    Photograph("friends_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi", "CC-BY-4.0", LOMIRI),
    Photograph("seeding_by_Clements_Engelhardt.jpg", "Clemens Engelhardt", "CC0-1.0", LOMIRI),
)
