"""A researcher's own package: throwaway methods, one for each seam, that edit nothing of plm."""
